"""Anthropic's Messages API, at Anthropic, on Bedrock and on Vertex."""
