"""All SQL: the connection, the queue of jobs, requests, webhooks and queries."""
