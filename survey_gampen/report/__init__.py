"""Pictures of results, and the demo."""
