"""Grading: the official metric of each benchmark."""
