"""Several modalities of one sample, such as a clip and the motion sensor that was recorded with it."""
