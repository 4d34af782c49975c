"""Whether everything that micropod-img needs is as it should be on this machine, and what to do where it is not.

It looks, and leaves everything as it is; it works where other commands do not.
"""
