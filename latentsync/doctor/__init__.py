"""`latentsync doctor`: what of this machine works, what will run on it, and what mends each fault.

Nothing slow or fragile is imported at the top: a package that is missing or broken is what this is for.
"""

from latentsync.doctor.check import Ability, Check, DoctorJob, DoctorResult
from latentsync.doctor.examination import run

__all__ = ["Ability", "Check", "DoctorJob", "DoctorResult", "run"]
