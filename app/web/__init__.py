"""The pages that people look at: rendered here, with charts drawn in the browser from figures computed here.

The rules of the pages:
  * nothing is loaded from anywhere else, and nothing inline is executed: a strict Content-Security-Policy says so;
  * whatever came from outside is text, escaped by the templates;
  * a page works without its scripts; what changes something is a form with a token, posted by a signed-in person;
  * each page reads a bounded number of rows (app/db/pages.py) or the statistics tables.
"""

from fastapi import APIRouter

from app.web import calibration, decisions, exposure, gates, halts, model, signing, static, unknown

router = APIRouter(include_in_schema=False)
for part in (decisions, calibration, gates, model, exposure, halts, signing, static, unknown):
    router.include_router(part.router)
