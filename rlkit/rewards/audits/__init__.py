"""The reward lab: where would a reward be hacked?"""
