"""OpenVINO's CPU plugin: its one core, its properties, and what it must be kept from."""
