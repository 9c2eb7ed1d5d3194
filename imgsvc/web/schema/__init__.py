"""The parameters and responses of the routes, and the OpenAPI document."""
