"""HTTP: routes, handlers and the pages. No SQL and no rules."""
