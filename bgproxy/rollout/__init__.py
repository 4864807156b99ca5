"""The rollout acts over time: health checks, readiness, the flip itself, the drain."""
