//! Jobs to run: models, data sets, and layers that only sleep.
