"""Every way into a repository, opened, and the features behind them compared."""
