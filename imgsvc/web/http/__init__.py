"""HTTP itself: the server, middlewares, forms, problems and conditional requests."""
