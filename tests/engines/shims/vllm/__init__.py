"""A stand-in for the one function of vLLM that SGLang falls back to on CPUs without AMX. For tests; it is no vLLM."""
