"""The executor of a cluster: a coordinator, and nodes on other machines."""
