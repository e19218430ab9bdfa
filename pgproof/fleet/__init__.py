"""The fleet: all clusters of one configuration, judged by what their repositories say."""
