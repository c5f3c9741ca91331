"""What every hilrl node shares: contract, parameters, QoS, spinning, messages to numpy, images."""
