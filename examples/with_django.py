"""The service in Django, all of it in one file."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

import service

service.start()


@require_GET
def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(service.page())


@require_GET
def status(request: HttpRequest) -> HttpResponse:
    return JsonResponse(service.status())


@require_POST
def post(request: HttpRequest, name: str) -> HttpResponse:
    code, content = service.post(name, request.GET.get("letters", "5"), wait="wait" in request.GET)
    return JsonResponse(content, status=code)


urlpatterns = [path("", page), path("status", status), path("mailings/<name>", post)]

if not settings.configured:  # mod_wsgi runs a touched script again, in the same interpreter
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
application = get_wsgi_application()
