"""Everything that leaves the machine: downloads, address rules, retries and webhooks."""
