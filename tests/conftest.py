"""Settings that all tests share."""

import hypothesis

# No deadline: the first call of a backend's operation may take seconds.
hypothesis.settings.register_profile("keras_hoyer", max_examples=50, deadline=None)
hypothesis.settings.load_profile("keras_hoyer")
