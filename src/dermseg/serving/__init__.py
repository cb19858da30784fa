"""The HTTP service: bundles behind FastAPI, without torch."""
