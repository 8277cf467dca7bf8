"""What tests share: fakes, servers, and inputs."""
