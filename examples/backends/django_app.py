"""A Django application in one file, which publishes when a transaction is committed.

Create its table, and run it::

    python -m examples.backends.django_app
    gunicorn -w 4 examples.backends.django_app:application
"""

from __future__ import annotations

import logging
import os

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection, models, transaction
from django.http import Http404, HttpRequest, JsonResponse
from django.urls import path

from juggler.backend import Backend

logging.basicConfig()
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("ORDERS_DATABASE", "orders.sqlite3")}
settings.configure(DATABASES={"default": database}, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"])
django.setup()

backend = Backend(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))


class Order(models.Model):
    name = models.TextField()

    class Meta:
        app_label = "shop"


def announce(event: dict) -> None:
    """Publish an event when the transaction is committed, and never if it is rolled back."""
    # robust: if Redis is unreachable, Django logs the error. The order is stored, and the view succeeds.
    transaction.on_commit(lambda: backend.publish("orders", event), robust=True)


@transaction.atomic
def place(request: HttpRequest) -> JsonResponse:
    """Order the things of a form. If one of them is not in stock, nothing is stored and nothing is published."""
    names = request.POST.getlist("name")
    for name in names:
        announce({"number": Order.objects.create(name=name).pk, "name": name})
        if name not in ("tea", "coffee"):
            raise Http404(f"not in stock: {name}")
    return JsonResponse({"placed": names}, status=201)


urlpatterns = [path("orders", place)]
application = get_wsgi_application()

if __name__ == "__main__":  # in a project: manage.py migrate
    with connection.schema_editor() as editor:
        editor.create_model(Order)
