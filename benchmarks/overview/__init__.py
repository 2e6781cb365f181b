"""The front page of the results, from what all other pages say."""
