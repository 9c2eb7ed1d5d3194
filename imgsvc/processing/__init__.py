"""What happens when: the scheduler, jobs, results, limits per host and maintenance."""
