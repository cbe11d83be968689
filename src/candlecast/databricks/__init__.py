"""What runs beside a Databricks workspace: it starts jobs there and demands that they succeed."""
