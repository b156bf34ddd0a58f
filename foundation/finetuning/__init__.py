"""Fine-tuning: a recipe with labels is made of a model and some shards, run as any other, scored and kept for use."""
