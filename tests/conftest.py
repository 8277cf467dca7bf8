"""Settings of all tests."""

from hypothesis import HealthCheck, settings

# Machines are noisy: how long an example takes is never a reason to fail.
settings.register_profile("semievol", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("semievol")
