"""``tally demo``: a month of usage in; balances, a bill and a proof out. Read ``story`` first, then ``play``."""
