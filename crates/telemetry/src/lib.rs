//! The event log of a run: event types, writer, reader and the fold into a model for the screen.
