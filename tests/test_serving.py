"""The champion predicts over HTTP, by MLflow's own server, and refuses unknown columns."""

import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import mlflow
import numpy as np
import pandas as pd

from candlecast.registry.datasets import ChampionDataset
from servers import mlflow_serving

CHAMPION = "models:/candlecast@champion"
LAGS = [f"lag_{number:02}" for number in range(1, 15)]


def post(port, request):
    """Post a request as the README's curl does; return its status and content."""
    posted = Request(
        f"http://127.0.0.1:{port}/invocations",
        data=json.dumps(request).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urlopen(posted, timeout=60) as answer:
            return answer.status, json.load(answer)
    except HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


def test_fault_29_the_champion_answers_over_http_and_names_a_wrong_column(stored, tmp_path):
    """The documented example, then requests with a missing, a misnamed and a text column."""
    store = f"sqlite:///{stored}/mlflow/mlflow.db"
    mlflow.set_tracking_uri(store)
    example = mlflow.artifacts.load_dict(f"{CHAMPION}/serving_input_example.json")
    rows = example["dataframe_split"]
    assert rows["columns"] == LAGS
    forest = ChampionDataset(model_name="candlecast").load().model
    expected = forest.predict_proba(pd.DataFrame(rows["data"], columns=LAGS, dtype=np.float32))
    assert len(expected) >= 2
    assert len(np.unique(expected)) > 2  # so that a mixed-up order of rows would show

    environment = {"MLFLOW_TRACKING_URI": store}
    command = ["models", "serve", "--model-uri", CHAMPION, "--env-manager", "local"]
    log = tmp_path / "server.log"
    with mlflow_serving(*command, health="/ping", log=log, env=environment) as port:
        status, reply = post(port, example)
        assert status == 200
        np.testing.assert_allclose(reply["predictions"], expected, rtol=0, atol=1e-12)

        backwards = {"columns": LAGS[::-1], "data": [row[::-1] for row in rows["data"]]}
        status, reply = post(port, {"dataframe_split": backwards})  # by name, not by position
        assert status == 200
        np.testing.assert_allclose(reply["predictions"], expected, rtol=0, atol=1e-12)

        fewer = {"columns": LAGS[:-1], "data": [row[:-1] for row in rows["data"]]}
        status, reply = post(port, {"dataframe_split": fewer})
        assert status == 400
        assert "missing inputs ['lag_14']" in reply["message"]

        misnamed = {"columns": ["lag_1", *LAGS[1:]], "data": rows["data"]}
        status, reply = post(port, {"dataframe_split": misnamed})
        assert status == 400
        assert "missing inputs ['lag_01']" in reply["message"]
        assert "['lag_1']" in reply["message"]

        words = {"columns": LAGS, "data": [["up", *row[1:]] for row in rows["data"]]}
        status, reply = post(port, {"dataframe_split": words})
        assert status == 400
        assert "lag_01" in reply["message"]
