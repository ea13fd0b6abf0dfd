"""What both kinds of network need: the U-Net, a trained network as a folder, and the average over flips and turns.

May import: `frost.pipeline` and below.
"""
