"""Scans that come over a connection instead of a file: an MRD streaming server, `frost serve`.

In: messages of Gadgetron's and python-ismrmrd-server's clients. Out: the images that `frost reconstruct` makes of the
same scan, as messages. `protocol.py` reads and bounds messages, `session.py` makes images of the acquisitions of one
connection, `server.py` accepts connections. May import: `frost.reconstruction` and below.
"""
