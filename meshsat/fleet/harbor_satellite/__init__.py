"""Harbor Satellite's artifacts and endpoints, unchanged, as a source of desired state."""
