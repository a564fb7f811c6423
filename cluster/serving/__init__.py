"""A trained director as a service: Ray Serve around vLLM and the operators of a run."""
