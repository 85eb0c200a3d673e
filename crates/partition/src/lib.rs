//! A model as a stack of layers on candle: profile it and cut it into pipeline stages.
