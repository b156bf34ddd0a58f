"""Inertial sensors: accelerometers and gyroscopes worn on a body or built into a camera."""
