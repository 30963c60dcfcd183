"""From a request to vectors: admission, preparation, batching, the device."""
