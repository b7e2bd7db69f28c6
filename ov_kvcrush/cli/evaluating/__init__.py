"""What ``ov-kvcrush eval`` runs and shows, one metric a module."""
