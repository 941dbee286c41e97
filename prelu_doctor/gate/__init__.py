"""Limits on a scan report: may this checkpoint ship?"""
