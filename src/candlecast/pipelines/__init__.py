"""One folder a pipeline: ``pipeline.py`` is a table of nodes, ``nodes.py`` has their functions."""
