"""HTTP to providers: connections, patience, credentials, event streams, and what errors mean.

No vendor's API is known here, only what all of them share.
"""
