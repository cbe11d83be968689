"""candlecast: will the next daily candle close above its open?"""

__version__ = "0.1.0"
