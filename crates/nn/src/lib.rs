//! What training on candle needs beyond candle-nn: layers with a backward, seeded dropout and initialisation, optimizers in place.
