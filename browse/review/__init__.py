"""The review page: `groundhog browse serve`. `serve.py` starts it, `app.py` has its API, `page/` is the page."""
