"""What `dmeta submit` sends to a cluster."""
