"""Prefect: tasks, flows, deployments and the server. The only importer of prefect; every task is a thin shell."""
