"""What several tests share: builders, small tokenizers, stand-ins for servers, and scripts that tests launch."""
