//! Pipeline schedules as data: generate, validate, lower, simulate, draw, import and export.
