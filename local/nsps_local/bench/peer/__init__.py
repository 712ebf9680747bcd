"""What an engineer would build instead of NSPS, to measure both in one run: FastAPI, Celery,
Redis and PostgreSQL.
"""
