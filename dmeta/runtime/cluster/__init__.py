"""Ray clusters: connecting, access control, jobs and the dashboard."""
