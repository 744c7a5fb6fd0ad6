"""To the Hub and back: upload in one commit, download, check, tag."""
