//! Replicas x ranks: the mesh, the gradient mean over replicas, and the trainer.
